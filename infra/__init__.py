"""The ground that everything stands on (errors, progress, tracking, hardware) and the roof (command line, launch)."""
