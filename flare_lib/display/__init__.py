"""What people look at: figures and widgets."""
