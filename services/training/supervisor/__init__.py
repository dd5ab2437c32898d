"""The small program that runs one attempt and outlives the service: starts, watches and ends it.

Started as `python -m services.training.supervisor FOLDER` in a session of its own. It talks with
the service through files of that folder only (`control.py`), so a service that crashed and came
back finds everything where it was. It imports nothing but the standard library and psutil.
"""
