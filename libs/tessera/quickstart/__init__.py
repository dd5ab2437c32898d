"""The main job: a year of real flights through the whole platform."""
