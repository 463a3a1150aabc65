"""What the routes take and give, as pydantic models; all of them strict.

generation.py       POST /generate, and the parts it shares with OpenAI's routes
openai.py           what OpenAI's routes take
openai_replies.py   what they give
probes.py           probes, policies, scores
steering.py         the `steering` field
"""
