"""The quickstart: real clips, real models, and a look at what came out."""
