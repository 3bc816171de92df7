"""The notebooks as files: run headlessly, and written as editions for students and teachers."""
