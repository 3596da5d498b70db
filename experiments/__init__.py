"""Everything that can be run: configurations, stages in order, what they leave behind."""
