"""What quantisation needs beyond one call: its flags, bits by layer, bytes on disk."""
