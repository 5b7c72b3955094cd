"""One page over many runs: `mia-dashboard outputs/` reads their `report.json` and draws them together. No torch."""
