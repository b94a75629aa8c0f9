"""Speed of resdet compared with other programs: the same work, alternating within one run."""
