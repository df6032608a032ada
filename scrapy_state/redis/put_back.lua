-- Puts requests that were set aside back into the queues, as if a worker that has left had leased them: see returning.lua.
-- One atomic step.
--
-- KEYS     meta, the list of what is returning, a hash of requests, the hash's new name: "returning:" and ARGV[1]
-- ARGV     the new name
-- returns  how many requests there are

if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[3]) == 0 then
    return 0
end
local count = redis.call('HLEN', KEYS[3])
redis.call('RENAME', KEYS[3], KEYS[4])
redis.call('RPUSH', KEYS[2], ARGV[1] .. ' anew')
redis.call('HINCRBY', KEYS[1], 'pending', count)
return count
