"""Tests, mirroring resdet/; a package so that its helpers have a name no other package takes."""
