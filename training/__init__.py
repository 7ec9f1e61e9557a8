"""How bundles are made: a room each for data, losses, runs, choices, stages and reports, and a recipe for all."""
