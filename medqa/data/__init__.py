"""From raw rows to the files that everything later reads."""

from medqa.data.audit import count_labellers, count_outcomes, mean_lengths
from medqa.data.medical_data import MedicalData, load_medical_data
from medqa.data.selection import OUTPUTS

__all__ = ["OUTPUTS", "MedicalData", "count_labellers", "count_outcomes", "load_medical_data", "mean_lengths"]
