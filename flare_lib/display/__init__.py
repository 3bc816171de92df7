"""What people look at and move: slices, figures, charts and widgets."""
