"""What to do with a fitted law: split a budget, choose next runs, hold a prediction. NumPy only, no torch."""
