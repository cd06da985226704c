"""What the commands of ``python3 -m utils.data`` do that needs more than the data: networks, pictures, tables."""
