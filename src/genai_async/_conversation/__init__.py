"""What the user says happened: sessions, turns, model calls, tools and sub-agents, as GenAI spans."""
