"""Package repositories as they were: kept by day, served with the distribution's own signatures."""
