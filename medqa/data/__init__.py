"""From raw rows to the files that everything later reads."""

from medqa.data.medical_data import MedicalData, counts, load_medical_data
from medqa.data.selection import OUTPUTS

__all__ = ["OUTPUTS", "MedicalData", "counts", "load_medical_data"]
