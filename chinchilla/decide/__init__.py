"""What to do with a fitted law: split a budget, choose next runs, hold a prediction. Must import without torch."""
