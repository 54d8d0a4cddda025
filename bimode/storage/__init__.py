"""What is on disk and in shared memory: run directories, versions, checkpoints, data sets."""
