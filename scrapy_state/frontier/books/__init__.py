"""The books about pages: what is under way, what checkpoints may mention, and what is settled. Pure: knows no Scrapy."""
