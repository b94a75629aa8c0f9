"""What a network costs, how its layers respond, and how its training went."""
