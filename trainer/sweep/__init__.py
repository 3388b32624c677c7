"""Search for hyperparameters with Optuna: `heimdall sweep`."""
