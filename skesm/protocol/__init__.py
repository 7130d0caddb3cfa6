"""The protocols of BioLM's services, for our client and our server alike: paths, bodies, answers and errors."""
