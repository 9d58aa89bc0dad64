-- Purpose:  what calls the functions: the scheduler, the HTTP client and the store of its secrets.
-- Locks:    none on existing tables.
-- Undo:     drop extension pg_cron, pg_net; (leave Vault: others keep secrets in it)

create extension if not exists pg_cron;
create extension if not exists pg_net with schema extensions;
create extension if not exists supabase_vault;
