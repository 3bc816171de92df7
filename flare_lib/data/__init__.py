"""Where cases come from: fetched samples, synthetic abdomens, CTs painted over label maps."""
