"""A table of questions and answers as rows in UltraMedical's two formats, in splits by prompt."""
