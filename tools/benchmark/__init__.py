"""Speed of resdet beside other programs, on the same work, in turns within one run."""
