"""Translation invariant polyphase sampling (Saha and Gokhale, WACV 2025)."""
