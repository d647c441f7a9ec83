"""What SFT and DPO share."""
