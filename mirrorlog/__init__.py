"""mirrorlog keeps remote copies of volumes up to date by sending addresses instead of data."""
