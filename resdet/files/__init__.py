"""Files as bytes: JSON, images, run lengths, restricted pickles, atomic writing, findings."""
