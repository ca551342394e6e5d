"""Scripts: commands that train in a process of their own and deliver results to sweeper."""
