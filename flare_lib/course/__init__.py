"""The notebooks as files: run without a browser, and written as editions for students and teachers."""
