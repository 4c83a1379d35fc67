"""The engine: LevelDB with group commit, and its in-memory twin. Bytes are in FORMAT.md."""
