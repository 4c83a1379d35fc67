"""The commands of ``stele``, a module for each family; ``cluster.__main__`` puts them together."""
