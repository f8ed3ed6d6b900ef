"""The trainer: what a run is asked, its folder, its loop, its reports."""
