"""Tables, figures and files."""
