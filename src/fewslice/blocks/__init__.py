"""A plan of blocks, the engine that runs it and the record of what is done."""
