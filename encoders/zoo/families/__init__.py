"""One file a family: `ROWS` of its encoders, readable without torch. The registry finds the files by itself."""
