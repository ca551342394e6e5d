"""What is searched, how points are proposed, how one trial runs, and what was found."""
