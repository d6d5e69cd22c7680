"""The colours of what surrounds the data in all figures."""

INK, FAINT, GRID = "#222222", "#8a8a8a", "#e6e6e6"
