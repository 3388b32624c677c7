"""An offline feature store for radio source localization."""
