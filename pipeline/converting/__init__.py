"""What convert_snn.py does in each of its modes."""
