"""Programs that are sent to the runtime with a model; they import only each other of Tessera.

`triton_model` is what Triton's Python backend runs; it lies there as `1/model.py`. The others are
in `1/programs.zip` and import each other relatively.
"""
