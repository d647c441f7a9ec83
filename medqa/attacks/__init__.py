"""Attempts to fool the judge."""

from medqa.attacks.texts import KINDS, AdversarialTexts, Attack, evaluation_attacks, training_attacks

__all__ = ["KINDS", "AdversarialTexts", "Attack", "evaluation_attacks", "training_attacks"]
