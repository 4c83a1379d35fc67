"""The console: one page that shows the whole cluster as it is now. ``kvnode.console.pages``."""
