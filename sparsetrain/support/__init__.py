"""What every room may use: files, names, modes of modules, the machine."""
