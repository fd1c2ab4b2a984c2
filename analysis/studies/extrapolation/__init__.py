"""Do the proxies forecast the target? The forecast, its report and its page."""
