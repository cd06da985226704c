"""Everything between files of pictures and batches of tensors: manifests, datasets, transforms, the sample set."""
