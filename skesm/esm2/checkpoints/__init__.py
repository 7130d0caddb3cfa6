"""Find the files of a model: in a folder, in the Hub's cache, or on the Hub itself."""
