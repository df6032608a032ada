-- Have requests that were set aside come back, as the leases of a worker that has left do: see returning.lua. One atomic step.
--
-- KEYS     meta, the list of what is returning, a hash of requests, what to rename that to: "returning:" and a new name
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
