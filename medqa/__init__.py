"""Fine-tuning and measuring of medical question answering."""
